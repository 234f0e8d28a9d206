"""The training loop under fine-tuning, distillation and pruning: options, objective, augmentation, checkpoints."""
