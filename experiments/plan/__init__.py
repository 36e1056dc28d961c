"""Estimates what a config costs on a number of accelerators, and what limits it, from shapes. Nothing is trained.

python -m experiments.plan --config=configs/r3gan.py:cifar10
python -m experiments.plan --config=configs/biggan.py:imagenet128 --classes=1000 --examples=1281167 --on=tpu_v4
python -m experiments.plan --config=configs/dcgan.py:mnist --override batch_size=2048 --devices 1 2 4 8 --check 4
python -m experiments.plan --config=configs/dcgan.py:digits --override compute_dtype=bfloat16 --compile=h100

A step takes the time of its arithmetic plus that of its communication between devices, or the time of reading its
images or of saving checkpoints, which run in parallel, if one of these is longer. docs/scaling.md explains the table,
the sources of the machines' rates, and what is not modeled.

`--compile` adds what the compiled step needs on an accelerator that need not be present: memory and whether it fits,
convolutions, communication between devices, compile time.
"""
