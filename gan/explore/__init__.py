"""The views of `--mode=explore`: what a trained generator does, as image files, animations and tables."""
