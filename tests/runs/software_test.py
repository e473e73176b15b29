"""The file of fitted software: kept whole, or refused by name."""

import json

import pytest

from diffmem import errors
from diffmem.runs import software


def test_the_file_keeps_what_was_fitted(root, tmp_path):
  shipped = software.of_folder(root / 'checkpoints')
  shipped.save(tmp_path / software.FILE)
  assert software.of_folder(tmp_path) == shipped


def test_a_folder_without_software_has_the_priors(tmp_path):
  assert software.of_folder(tmp_path) == software.Software.prior()


@pytest.mark.parametrize(
  'text', ['', '[]', '{}', '{"schema_version": 2}', '{"schema_version": 1}']
)
def test_another_file_is_refused_by_name(tmp_path, text):
  path = tmp_path / software.FILE
  path.write_text(text)
  with pytest.raises(errors.SpecError, match='software.json: no file of'):
    software.load(path)


def test_a_missing_part_is_refused(root, tmp_path):
  document = json.loads((root / 'checkpoints' / software.FILE).read_text())
  del document['training']['values']['']['product']
  path = tmp_path / software.FILE
  path.write_text(json.dumps(document))
  with pytest.raises(errors.SpecError, match='product'):
    software.load(path)
