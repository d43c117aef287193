"""What the toolkit costs and saves, each figure beside its peer: `python -m benchmarks` (needs the extras bench, demo).

Nothing here is an absolute truth: ours and the peer are measured in turn in the same loop, and of many samples the
least counts, so that whatever else the machine does hits both alike. A ratio is judged as it is. A figure in
milliseconds or microseconds is that of the machine on which the peers' figures in `figures.REFERENCE` were taken; where
this machine misses it, it is judged once more with the machine's speed taken out, and the table says so: see
`figures.Figure`.
"""
