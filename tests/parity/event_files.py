"""Reads event files with TensorBoard's own reader: `event_files.py ATTEMPT_DIR` prints every curve with its points."""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(f"{sys.argv[1]}/tensorboard")
events.Reload()
tags = events.Tags()["scalars"]
if not tags:
    sys.exit(f"{sys.argv[1]}/tensorboard: no scalars")
for tag in tags:
    print(tag, " ".join(f"{e.step}:{e.value:.6g}" for e in events.Scalars(tag)))
