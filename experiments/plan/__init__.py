"""What would a config cost on so many accelerators, and what limits it? Arithmetic on its shapes, nothing is trained.

python -m experiments.plan --config=configs/r3gan.py:cifar10
python -m experiments.plan --config=configs/biggan.py:imagenet128 --classes=1000 --examples=1281167 --on=tpu_v4
python -m experiments.plan --config=configs/dcgan.py:mnist --override batch_size=2048 --devices 1 2 4 8 --check 4
python -m experiments.plan --config=configs/dcgan.py --override compute_dtype=bfloat16 --compile=h100

A turn's seconds are those of its arithmetic, plus those of its exchange between devices, or else those of reading its
images or of saving checkpoints, which go on beside it, where one of these is longer. docs/scaling.md says what stands
in the table, where the machines' figures come from, and what is left out.

`--compile` adds what the compiled step needs and does on an accelerator that does not have to be there: memory and
whether it fits, convolutions, exchanges between devices, compile time.
"""
