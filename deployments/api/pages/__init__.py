"""What people look at in a browser: the playground, the documentation, the model card, the terms."""
