"""From pictures and text on disk to training examples."""
