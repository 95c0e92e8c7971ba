"""`nctool recipes` and `nctool targets`."""

from __future__ import annotations

from pathlib import Path

from nctool_models import load_recipe


def test_a_recipe_is_written_out_so_that_it_reads_back(cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(cli("recipes", "digits-cnn").out, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("digits-cnn")
    (as_json,) = cli("recipes", tmp_path / "mine.toml", "--json").json["recipes"]
    assert as_json["name"] == "digits-cnn"
    refused = cli("recipes", "digit-cnn")
    assert refused.code == 2
    assert "unknown recipe `digit-cnn`" in refused.err


def test_a_recipe_as_json_has_its_keys_by_their_older_names_too(cli, tmp_path: Path) -> None:
    text = load_recipe("digits-cnn").to_toml().replace('source = "ideal"', 'source = "chip"')
    (tmp_path / "mine.toml").write_text(f"{text}\n[chip]\nreplicas = 2\n", encoding="utf-8")
    (recipe,) = cli("recipes", tmp_path / "mine.toml", "--json").json["recipes"]
    assert recipe["input"]["coding"] == recipe["input"]["encoding"] == "graded"
    assert recipe["chip"]["realisation"] == recipe["chip"]["backend"] == "autapse"
    assert recipe["chip"]["units"] == recipe["chip"]["replicas"] == 2


def test_lists_as_json(cli) -> None:
    assert {"digits-cnn", "digits-mlp", "mnist-mlp", "mnist-lenet"} <= {
        recipe["name"] for recipe in cli("recipes", "--json").json["recipes"]
    }
    listed = cli("targets", "--json").json
    assert [target["name"] for target in listed["targets"]] == ["loihi2", "loihi1", "lava"]
    assert listed["aliases"] == {"loihi": "loihi2"}
    limits = [limit for target in listed["targets"] for limit in target["limits"].values() if limit is not None]
    assert len(limits) == 12
    assert all(each["source"] for each in [*limits, *listed["numbers"]])


def test_an_unknown_recipe(cli) -> None:
    ended = cli("train", "digits-cmn")
    assert ended.code == 2
    assert ended.err == (
        "error: unknown recipe `digits-cmn`\n"
        "hint: did you mean `digits-cnn` or `digits-mlp` or `digits-cnn-rate`? `nctool recipes` lists those built in\n"
    )
