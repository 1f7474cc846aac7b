"""What several commands in tools/ share; nothing here is run by itself."""
