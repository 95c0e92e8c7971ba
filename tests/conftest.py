"""Settings for the whole suite: how many examples Hypothesis tries.

`ci`, the default, tries the same examples on every machine and on every run. `nightly` looks for new ones:
`NCTOOL_HYPOTHESIS=nightly make test`, or pytest's `--hypothesis-profile=nightly`, which wins.
"""

import os

from hypothesis import settings

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("NCTOOL_HYPOTHESIS", "ci"))
