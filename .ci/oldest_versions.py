"""Prints the oldest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in project["dependencies"]:
    found = re.match(r"([\w.-]+)\s*>=\s*([\w.]+)", requirement)
    assert found, requirement
    print(f"{found[1]}=={found[2]}")
