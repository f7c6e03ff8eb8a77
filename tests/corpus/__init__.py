"""Small files as many writers write them, each with its expected rows."""
