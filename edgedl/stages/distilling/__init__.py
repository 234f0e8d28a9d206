"""What distillation is made of: its losses, the layers it matches, teachers and students."""
