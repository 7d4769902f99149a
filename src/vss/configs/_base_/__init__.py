"""What rows inherit from."""
