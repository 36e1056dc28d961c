"""Layers that several architectures share, one kind in each file. No layer depends on an architecture.

Layers that depend on more than one example, or draw random numbers, take the mapped axis over which the batch is split
(`axis_name`), so several devices compute what one device would. Those that draw also take the rows of the batch that
they are given (`rows`), so an example's draws do not depend on which other examples are computed with it.
"""
