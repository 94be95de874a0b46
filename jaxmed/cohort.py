"""The findings of a folder on one page: sorted by risk, with small pictures, filters.

The page loads nothing: pictures, styles and the few lines that filter are inside it, so
that it works from a disk. It links to each case's files beside it.
"""

import base64
import collections
import hashlib
import importlib.resources
import math
from pathlib import PurePosixPath
from urllib.parse import quote

import cv2
import jinja2
import markupsafe

from jaxmed import findings

NAME = 'index.html'
SIDES_PX = (132, 200)  # of a small picture: greatest width and height
_QUALITY = 72  # of its JPEG
# Of all small pictures, as text: beyond it cases have a link only, the least likely
# first. One is about 8 KB.
MOST_BYTES = 24 << 20


def summarise(output, task, lines):
    """Writes `output`/index.html, if the task has a page; a page is never half there.

    Args:
        output: folder of findings, whose pictures are there already.
        task: its `page` says what is shown.
        lines: of the journal, in any order: 'case', 'row', 'files'.
    """
    if task.page is None:
        return
    page = task.page
    cases = sorted(
        (_case(line, page) for line in lines),
        key=lambda case: (case['risk'] is None, -(case['risk'] or 0), case['name']))
    left = MOST_BYTES
    for case in cases:
        thumbnail = case['picture'] and _shrink(output / case['picture'])
        if thumbnail and len(thumbnail[0]) <= left:
            left -= len(thumbnail[0])
            case['thumbnail'] = thumbnail

    resources = importlib.resources.files('jaxmed')
    script = resources.joinpath('cohort.js').read_text(encoding='utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True)
    environment.filters.update(link=link)
    template = resources.joinpath('cohort.html').read_text(encoding='utf-8')
    statuses = collections.Counter(case['status'] for case in cases)
    verdicts = collections.Counter(
        case['verdict'] for case in cases if case['verdict'])
    findings.replace(output / NAME, environment.from_string(template).render(
        title=task.card.title, page=page, cases=cases, statuses=statuses,
        verdicts=verdicts, script=markupsafe.Markup(script), digest=digest,
        columns=[name for name in page.columns
                 if any(case['row'].get(name) not in (None, '') for case in cases)],
    ).encode())


def link(name):
    """A file below the page as an address; names may hold anything."""
    return './' + quote(name)


def _case(line, page):
    row = line['row']
    risk = row.get(page.risk)
    picture = f'{page.picture}/{line["case"]}.png'
    return {
        'name': line['case'], 'row': row, 'status': row['status'],
        'reason': row.get('reason', ''),
        'risk': risk if isinstance(risk, (int, float)) and math.isfinite(risk)
        else None,
        'verdict': str(row.get(page.verdict) or ''),
        'picture': picture if picture in line['files'] else '',
        'files': [(PurePosixPath(name).name, name) for name in line['files']
                  if name != picture],
        'thumbnail': None,
    }


def _shrink(path):
    """(JPEG as a data address, width, height) of a PNG; None where there is none."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        return None
    height, width = picture.shape[:2]
    scale = min(SIDES_PX[0] / width, SIDES_PX[1] / height, 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    # Twice as fine as it is shown at first: most screens have such pixels.
    small = cv2.resize(
        picture, tuple(min(2 * s, f) for s, f in zip(size, (width, height))),
        interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(data).decode(), *size
