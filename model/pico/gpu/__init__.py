"""Trains a larger embedded model in minutes on one GPU: ``python -m model.pico.train --data DIRECTORY``.

`pack` makes the directory of data, `loop` trains from it, `parts` joins what a run wrote into a checkpoint.
"""
