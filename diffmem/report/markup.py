"""Markup with everything escaped: the only way text enters the page."""

import html
import math
from typing import Any


class Markup(str):
  """Text that is markup already and must not be escaped again."""

  __slots__ = ()


def escape(value: Any) -> Markup:
  """Escapes a value for text or an attribute; `Markup` passes through."""
  if isinstance(value, Markup):
    return value
  return Markup(html.escape(str(value), quote=True))


def join(*parts: Any) -> Markup:
  """Concatenates, escaping what is not markup; None and lists allowed."""
  pieces = []
  for part in parts:
    if part is None:
      continue
    if isinstance(part, (list, tuple)):
      pieces.append(join(*part))
    else:
      pieces.append(escape(part))
  return Markup(''.join(pieces))


def number(value: float) -> str:
  """A coordinate with two decimals.

  Raises:
    ValueError: not finite. Callers drop such points before they draw.
  """
  value = float(value)
  if not math.isfinite(value):
    raise ValueError(f'{value} cannot be drawn')
  text = f'{value:.2f}'.rstrip('0').rstrip('.')
  return '0' if text == '-0' else text


def tag(element: str, *children: Any, **attributes: Any) -> Markup:
  """One element, valid in HTML and XML alike.

  A trailing underscore is dropped and inner ones become hyphens (`class_`,
  `stroke_width`); an attribute that is None is left out; numbers become
  coordinates.

  Examples:
    >>> tag('text', 'a < b', x=1.5, class_='label')
    '<text x="1.5" class="label">a &lt; b</text>'
  """
  pieces = [element]
  for name, value in attributes.items():
    if value is None:
      continue
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      value = number(value)
    name = name.rstrip('_').replace('_', '-')
    pieces.append(f'{name}="{escape(value)}"')
  return Markup(f'<{" ".join(pieces)}>{join(*children)}</{element}>')


def minus(text: str) -> str:
  """A typographic minus in front of a number."""
  return text.replace('-', '\N{MINUS SIGN}', 1) if text[:1] == '-' else text
