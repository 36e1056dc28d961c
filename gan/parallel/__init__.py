"""Devices and processes: meshes, shardings, compiled train steps, and the processes of a multi-host run."""
