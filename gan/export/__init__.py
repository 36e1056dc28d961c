"""`--mode=export`: a trained generator as files that others read, without the run and without this package's flags."""
