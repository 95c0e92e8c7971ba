"""The only package that imports Lava; importing it makes Lava importable (`nctool_deploy.lava.compatibility`).

Nothing else is in the package: when Lava looks for the models of a process, it executes every module in the folder of
that process.
"""

from nctool_deploy.lava.compatibility import make_importable

make_importable()
