"""Turns texts into token ids, and long texts into chunks. Starts without torch."""
