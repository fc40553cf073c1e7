"""The command `toolkit`: one file per command or pair of commands, the text they print, plugin templates.

What the commands do is in the packages below; nothing imports this one.
"""
