"""What maintainers run: nothing here is needed to read the course."""
