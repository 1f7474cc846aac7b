"""What lies below --root_path, what is missing, and where it comes from."""
