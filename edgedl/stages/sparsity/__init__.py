"""What weight sparsity and clustering share: kernels, patterns, masks, centroids, the record, and tfmot beside them."""
