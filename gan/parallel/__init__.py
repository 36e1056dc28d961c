"""Devices and processes: meshes, shardings, compiled training steps, and the processes of a multi-host run."""
