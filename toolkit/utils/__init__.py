"""What every package needs and no package owns: errors, files, figures, processes, signals, memory.

It imports no other package of the toolkit.
"""
