"""Meshes of devices, and the processes of one run."""
