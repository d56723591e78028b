"""HUSAI: do sparse autoencoders learn the same features twice?

The library behind the executable paper. Importing it imports none of its modules, so that the
light ones (`config`, `evidence`, `stats`, `plots`) can be used where torch is not installed.
"""

__version__ = "0.1.0"
