"""Other engines that run the same checkpoint, side by side with ours."""
