"""The part of Caffe's protobuf schema that describes networks for inference, and the readers of its two file formats.

Field names, numbers and defaults are those of BVLC Caffe's `caffe.proto`; the layers of forks (SSD, DeepLab, SegNet,
ShuffleNet, NVIDIA) have the numbers of their forks where these are free. A prototxt names its fields, so a number
that two forks use for different things does no harm. Of a caffemodel only names and weights are read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError, ModelError
from .._onnx import MAX_BYTES, last_line

MAX_TEXT = 2 << 20  # bytes of a prototxt; those of the largest published networks are below 0.5 MB
MAX_LINE = 16 << 10  # the parser's time grows with the square of a line
MAX_LAYERS = 20_000
PACKAGE = "edgedl.caffe"

SCALARS = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
ENUM, MESSAGE = 14, 11  # of google.protobuf.FieldDescriptorProto.Type
OPTIONAL, REPEATED = 1, 3

# One message a block: its name, then `type name = number [default]`; `*` marks a repeated field.
SCHEMA = """
enum Phase: TRAIN=0 TEST=1
enum EltwiseOp: PROD=0 SUM=1 MAX=2 MIN=3
enum PoolMethod: MAX=0 AVE=1 STOCHASTIC=2
enum RoundMode: CEIL=0 FLOOR=1
enum NormRegion: ACROSS_CHANNELS=0 WITHIN_CHANNEL=1
enum ReductionOp: SUM=1 ASUM=2 SUMSQ=3 MEAN=4
enum Backend: LEVELDB=0 LMDB=1
enum Engine: DEFAULT=0 CAFFE=1 CUDNN=2
enum VarianceNorm: FAN_IN=0 FAN_OUT=1 AVERAGE=2
enum DimCheckMode: STRICT=0 PERMISSIVE=1
enum V1LayerType: NONE=0 ABSVAL=35 ACCURACY=1 ARGMAX=30 BNLL=2 CONCAT=3 CONTRASTIVE_LOSS=37 CONVOLUTION=4 DATA=5 \
DECONVOLUTION=39 DROPOUT=6 DUMMY_DATA=32 EUCLIDEAN_LOSS=7 ELTWISE=25 EXP=38 FLATTEN=8 HDF5_DATA=9 HDF5_OUTPUT=10 \
HINGE_LOSS=28 IM2COL=11 IMAGE_DATA=12 INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15 MEMORY_DATA=29 \
MULTINOMIAL_LOGISTIC_LOSS=16 MVN=34 POOLING=17 POWER=26 RELU=18 SIGMOID=19 SIGMOID_CROSS_ENTROPY_LOSS=27 SILENCE=36 \
SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 SLICE=33 TANH=23 WINDOW_DATA=24 THRESHOLD=31

message BlobShape: int64* dim=1
message BlobProto: int32 num=1; int32 channels=2; int32 height=3; int32 width=4; bytes* data=5; BlobShape shape=7; \
bytes* double_data=8; int32 raw_data_type=10; bytes raw_data=12
message LayerWeights: string name=1; string type=2; BlobProto* blobs=7
message V1LayerWeights: string name=4; BlobProto* blobs=6
message NetWeights: string name=1; V1LayerWeights* layers=2; LayerWeights* layer=100

message FillerParameter: string type=1 [constant]; float value=2; float min=3; float max=4 [1]; float mean=5; \
float std=6 [1]; int32 sparse=7 [-1]; VarianceNorm variance_norm=8
message NetState: Phase phase=1 [TEST]; int32 level=2; string* stage=3
message NetStateRule: Phase phase=1; int32 min_level=2; int32 max_level=3; string* stage=4; string* not_stage=5
message ParamSpec: string name=1; DimCheckMode share_mode=2; float lr_mult=3 [1]; float decay_mult=4 [1]
message TransformationParameter: float scale=1 [1]; bool mirror=2; uint32 crop_size=3; string mean_file=4; \
float* mean_value=5; bool force_color=6; bool force_gray=7
message LossParameter: int32 ignore_label=1; bool normalize=2
message AccuracyParameter: uint32 top_k=1 [1]; int32 axis=2 [1]; int32 ignore_label=3
message ArgMaxParameter: bool out_max_val=1; uint32 top_k=2 [1]; int32 axis=3
message BatchNormParameter: bool use_global_stats=1; float moving_average_fraction=2 [0.999]; float eps=3 [1e-5]; \
bool scale_bias=7
message BiasParameter: int32 axis=1 [1]; int32 num_axes=2 [1]; FillerParameter filler=3
message ClipParameter: float min=1; float max=2
message ConcatParameter: int32 axis=2 [1]; uint32 concat_dim=1 [1]
message ConvolutionParameter: uint32 num_output=1; bool bias_term=2 [true]; uint32* pad=3; uint32* kernel_size=4; \
uint32* stride=6; uint32* dilation=18; uint32 pad_h=9; uint32 pad_w=10; uint32 kernel_h=11; uint32 kernel_w=12; \
uint32 stride_h=13; uint32 stride_w=14; uint32 group=5 [1]; FillerParameter weight_filler=7; \
FillerParameter bias_filler=8; Engine engine=15; int32 axis=16 [1]; bool force_nd_im2col=17
message CropParameter: int32 axis=1 [2]; uint32* offset=2
message DataParameter: string source=1; uint32 batch_size=4; uint32 rand_skip=7; Backend backend=8; float scale=2 [1]; \
string mean_file=3; uint32 crop_size=5; bool mirror=6; bool force_encoded_color=9; uint32 prefetch=10 [4]
message DropoutParameter: float dropout_ratio=1 [0.5]; bool scale_train=2 [true]
message EltwiseParameter: EltwiseOp operation=1 [SUM]; float* coeff=2; bool stable_prod_grad=3 [true]
message ELUParameter: float alpha=1 [1]
message EmbedParameter: uint32 num_output=1; uint32 input_dim=2; bool bias_term=3 [true]; \
FillerParameter weight_filler=4; FillerParameter bias_filler=5
message ExpParameter: float base=1 [-1]; float scale=2 [1]; float shift=3
message FlattenParameter: int32 axis=1 [1]; int32 end_axis=2 [-1]
message InnerProductParameter: uint32 num_output=1; bool bias_term=2 [true]; FillerParameter weight_filler=3; \
FillerParameter bias_filler=4; int32 axis=5 [1]; bool transpose=6
message InputParameter: BlobShape* shape=1
message InterpParameter: int32 height=1; int32 width=2; int32 zoom_factor=3 [1]; int32 shrink_factor=4 [1]; \
int32 pad_beg=5; int32 pad_end=6
message LogParameter: float base=1 [-1]; float scale=2 [1]; float shift=3
message LRNParameter: uint32 local_size=1 [5]; float alpha=2 [1]; float beta=3 [0.75]; NormRegion norm_region=4; \
float k=5 [1]; Engine engine=6
message MemoryDataParameter: uint32 batch_size=1; uint32 channels=2; uint32 height=3; uint32 width=4
message MVNParameter: bool normalize_variance=1 [true]; bool across_channels=2; float eps=3 [1e-9]
message NormalizeParameter: bool across_spatial=1 [true]; FillerParameter scale_filler=2; \
bool channel_shared=3 [true]; float eps=4 [1e-10]
message PermuteParameter: uint32* order=1
message PoolingParameter: PoolMethod pool=1; uint32 pad=4; uint32 pad_h=9; uint32 pad_w=10; uint32 kernel_size=2; \
uint32 kernel_h=5; uint32 kernel_w=6; uint32 stride=3 [1]; uint32 stride_h=7; uint32 stride_w=8; Engine engine=11; \
bool global_pooling=12; RoundMode round_mode=13; bool ceil_mode=113 [true]
message PowerParameter: float power=1 [1]; float scale=2 [1]; float shift=3
message PReLUParameter: FillerParameter filler=1; bool channel_shared=2
message PriorBoxParameter: float* min_size=1; float* max_size=2; float* aspect_ratio=3; bool flip=4 [true]; \
bool clip=5; float* variance=6; uint32 img_size=7; uint32 img_h=8; uint32 img_w=9; float step=10; float step_h=11; \
float step_w=12; float offset=13 [0.5]
message ReductionParameter: ReductionOp operation=1 [SUM]; int32 axis=2; float coeff=3 [1]
message ReLUParameter: float negative_slope=1; Engine engine=2
message ReshapeParameter: BlobShape shape=1; int32 axis=2; int32 num_axes=3 [-1]
message ScaleParameter: int32 axis=1 [1]; int32 num_axes=2 [1]; FillerParameter filler=3; bool bias_term=4; \
FillerParameter bias_filler=5
message ShuffleChannelParameter: uint32 group=1 [1]
message SigmoidParameter: Engine engine=1
message SliceParameter: int32 axis=3 [1]; uint32* slice_point=2; uint32 slice_dim=1 [1]
message SoftmaxParameter: Engine engine=1; int32 axis=2 [1]
message SwishParameter: float beta=1 [1]
message TanHParameter: Engine engine=1
message ThresholdParameter: float threshold=1
message TileParameter: int32 axis=1 [1]; int32 tiles=2
message UpsampleParameter: int32 scale=1 [2]; int32 scale_h=2; int32 scale_w=3; bool pad_out_h=4; bool pad_out_w=5; \
uint32 upsample_h=6; uint32 upsample_w=7

message LayerParameter: string name=1; string type=2; string* bottom=3; string* top=4; Phase phase=10; \
float* loss_weight=5; ParamSpec* param=6; BlobProto* blobs=7; bool* propagate_down=11; NetStateRule* include=8; \
NetStateRule* exclude=9; TransformationParameter transform_param=100; LossParameter loss_param=101; \
AccuracyParameter accuracy_param=102; ArgMaxParameter argmax_param=103; BatchNormParameter batch_norm_param=139; \
BiasParameter bias_param=141; ClipParameter clip_param=148; ConcatParameter concat_param=104; \
ConvolutionParameter convolution_param=106; CropParameter crop_param=144; DataParameter data_param=107; \
DropoutParameter dropout_param=108; EltwiseParameter eltwise_param=110; ELUParameter elu_param=140; \
EmbedParameter embed_param=137; ExpParameter exp_param=111; FlattenParameter flatten_param=135; \
InnerProductParameter inner_product_param=117; InputParameter input_param=143; InterpParameter interp_param=1143; \
LogParameter log_param=134; LRNParameter lrn_param=118; MemoryDataParameter memory_data_param=119; \
MVNParameter mvn_param=120; NormalizeParameter norm_param=206; PermuteParameter permute_param=202; \
PoolingParameter pooling_param=121; PowerParameter power_param=122; PReLUParameter prelu_param=131; \
PriorBoxParameter prior_box_param=203; ReductionParameter reduction_param=136; ReLUParameter relu_param=123; \
ReshapeParameter reshape_param=133; ScaleParameter scale_param=142; \
ShuffleChannelParameter shuffle_channel_param=1164; SigmoidParameter sigmoid_param=124; \
SliceParameter slice_param=126; SoftmaxParameter softmax_param=125; SwishParameter swish_param=147; \
TanHParameter tanh_param=127; ThresholdParameter threshold_param=128; TileParameter tile_param=138; \
UpsampleParameter upsample_param=1149
message V1LayerParameter: string* bottom=2; string* top=3; string name=4; NetStateRule* include=32; \
NetStateRule* exclude=33; V1LayerType type=5; BlobProto* blobs=6; string* param=1001; \
DimCheckMode* blob_share_mode=1002; float* blobs_lr=7; float* weight_decay=8; float* loss_weight=35; \
AccuracyParameter accuracy_param=27; ArgMaxParameter argmax_param=23; ConcatParameter concat_param=9; \
ConvolutionParameter convolution_param=10; DataParameter data_param=11; DropoutParameter dropout_param=12; \
EltwiseParameter eltwise_param=24; ExpParameter exp_param=41; InnerProductParameter inner_product_param=17; \
LRNParameter lrn_param=18; MemoryDataParameter memory_data_param=22; MVNParameter mvn_param=34; \
PoolingParameter pooling_param=19; PowerParameter power_param=21; ReLUParameter relu_param=30; \
SigmoidParameter sigmoid_param=38; SoftmaxParameter softmax_param=39; SliceParameter slice_param=31; \
TanHParameter tanh_param=37; ThresholdParameter threshold_param=25; TransformationParameter transform_param=36; \
LossParameter loss_param=42; V0LayerParameter layer=1
message V0LayerParameter: string name=1; string type=2
message NetParameter: string name=1; string* input=3; BlobShape* input_shape=8; int32* input_dim=4; \
bool force_backward=5; NetState state=6; bool debug_info=7; LayerParameter* layer=100; V1LayerParameter* layers=2
"""

FIELD = re.compile(r"(\w+)(\*?) (\w+)=(\d+)(?: \[(.+)\])?")


@cache
def message(name: str) -> Any:
    """The class of a message of the schema. Raises MissingDependencyError."""
    try:
        from google.protobuf import descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reading Caffe models needs the package protobuf, which is not installed", next="pip install 'edgedl[onnx]'"
        ) from error
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _file() -> Any:
    """SCHEMA as a FileDescriptorProto."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto(name="edgedl_caffe.proto", package=PACKAGE, syntax="proto2")
    enums = set(re.findall(r"^enum (\w+)", SCHEMA, re.MULTILINE))
    for line in filter(None, SCHEMA.splitlines()):
        kind, name, body = re.fullmatch(r"(\w+) (\w+): (.*)", line).groups()  # type: ignore[union-attr]
        if kind == "enum":
            _add_enum(file.message_type.add(name=f"{name}Values").enum_type.add(name=name), body)
        else:
            target = file.message_type.add(name=name)
            for part in body.split("; "):
                _add_field(target, part, enums)
    return file


def _add_enum(target: Any, body: str) -> None:
    for part in body.split():
        key, _, number = part.partition("=")
        target.value.add(name=key, number=int(number))


def _add_field(target: Any, part: str, enums: set[str]) -> None:
    type_name, star, name, number, default = FIELD.fullmatch(part.strip()).groups()  # type: ignore[union-attr]
    added = target.field.add(name=name, number=int(number), label=REPEATED if star else OPTIONAL)
    if type_name in SCALARS:
        added.type = SCALARS[type_name]
    elif type_name in enums:
        added.type, added.type_name = ENUM, f".{PACKAGE}.{type_name}Values.{type_name}"
    else:
        added.type, added.type_name = MESSAGE, f".{PACKAGE}.{type_name}"
    if star and type_name == "int64":
        added.options.packed = True
    if default is not None:
        added.default_value = default


def read_text(path: Path) -> tuple[Any, list[str]]:
    """The NetParameter of a prototxt, and notes about fields in it that Caffe's schema does not have.

    Raises ModelError.
    """
    from google.protobuf import text_format

    if path.stat().st_size > MAX_TEXT:
        raise ModelError(f"{path.name} is larger than {MAX_TEXT >> 20} MB: it is no prototxt", next="check the path")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path.name} is not text, so it is no prototxt", next="check the path") from error
    if any(len(line) > MAX_LINE for line in text.split("\n")):
        raise ModelError(
            f"{path.name} has a line of more than {MAX_LINE:,} characters", next="put every field on a line of its own"
        )
    notes = []
    try:
        try:
            net = text_format.Parse(text, message("NetParameter")())
        except text_format.ParseError as error:
            if "has no field named" not in str(error):
                raise
            notes.append(f"{path.name} has fields that are not read: {last_line(error)}")
            net = text_format.Parse(text, message("NetParameter")(), allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else last_line(error)
        raise ModelError(
            f"{path.name} is not a network description that can be read: {reason}",
            next="check the file; the weights (.caffemodel) are found beside it",
        ) from error
    if len(net.layer) + len(net.layers) > MAX_LAYERS:
        raise ModelError(f"{path.name} has more than {MAX_LAYERS:,} layers", next="use a smaller model")
    return net, notes


def read_weights(path: Path) -> dict[str, Any]:
    """The BlobProtos of every layer with weights in a caffemodel, by layer name; the first of a name counts.

    Raises ModelError.
    """
    from google.protobuf.message import DecodeError

    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.name} is larger than 2 GiB", next="use a smaller model")
    with path.open("rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            raise ModelError(f"{path.name} holds its weights as HDF5", next="save it from Caffe as a .caffemodel")
    net = message("NetWeights")()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(
            f"{path.name} is damaged or is no caffemodel: {last_line(error)}", next="copy or download it again"
        ) from error
    found: dict[str, Any] = {}
    for layer in (*net.layer, *net.layers):
        if layer.blobs:
            found.setdefault(layer.name, layer.blobs)
    if not found:
        raise ModelError(f"{path.name} holds no weights of any layer", next="copy or download it again")
    return found
