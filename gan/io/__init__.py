"""What a run reads and writes: its folder, checkpoints, metrics, image grids and plots."""
