"""The only package that imports Lava.

It holds nothing else: when Lava looks for the models of a process, it
executes every module in the folder of that process.
"""
