"""Files whose names are no UTF-8, as Linux allows: they are read, and what is written names them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nctool
from nctool_models.zoo.networks import zoo_path


def test_a_page_and_a_bundle_name_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"b\xff.net")
    shutil.copyfile(zoo_path("zoo:digits-cnn"), model)
    page = nctool.report(model, tmp_path / "r.html", samples=4, verify=2, progress=False)
    assert "b\\udcff.net" in page.path.read_text(encoding="utf-8")
    nctool.bundle(model, tmp_path / "bundle")
    assert "b\\udcff.net" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
