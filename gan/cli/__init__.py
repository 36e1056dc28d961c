"""The command line of `python -m gan.main`: its flags, one file per mode, logging and the exit status."""
