"""The response to a refused request: a separate document, because the application is not shown to the user."""

from html import escape

from starlette.responses import HTMLResponse

from dashboard.auth.problems import Problem, problem_of
from openkcm.errors import OpenKcmError

RETRY_SECONDS = 5

# Colors of dashboard/.streamlit/config.toml. A browser without scripts has the button.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · OpenKCM</title>
<style>
:root {{ --page: #f1f5f9; --card: #ffffff; --text: #0f172a; --quiet: #475569; --line: #cbd5e1; --link: #1d4ed8;
  --button: #1d4ed8; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #0f172a; --card: #111c33; --text: #e2e8f0; --quiet: #94a3b8; --line: #334155; --link: #93b4ff;
    --button: #3b6fe0; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
  background: var(--page); color: var(--text); font: 1rem/1.5 "Source Sans 3", system-ui, sans-serif; }}
main {{ width: 100%; max-width: 36rem; padding: 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.5rem; }}
h1 {{ margin: 0.25rem 0 1rem; font-size: 1.6rem; line-height: 1.25; }}
p {{ margin: 0 0 1rem; }}
.code {{ margin: 0; color: var(--quiet); }}
nav {{ display: flex; flex-wrap: wrap; gap: 0.75rem 1.25rem; align-items: center; margin-top: 1.5rem; }}
a {{ color: var(--link); }}
nav a:first-child {{ padding: 0.5rem 1rem; border-radius: 0.5rem; background: var(--button); color: #ffffff;
  text-decoration: none; }}
a:focus-visible {{ outline: 3px solid var(--link); outline-offset: 2px; }}
</style>
</head>
<body>
<main>
<p class="code">OpenKCM · {status}</p>
<h1>{title}</h1>
<p>{happened}</p>
<p>{advice}</p>
<nav aria-label="What to do next">{ways}</nav>
</main>
{retry}</body>
</html>
"""
# The document is replaced only when the page is available, so that neither focus nor the reader's place is lost before.
_RETRY = """<script>
setInterval(async () => {{
  try {{ if ((await fetch(location.href, {{cache: "no-store"}})).status !== {status}) location.reload(); }} catch {{ }}
}}, {milliseconds});
</script>
"""


def response(refused: OpenKcmError, *, operator: bool = False) -> HTMLResponse:
    """Return the document for a refusal, with its status code."""
    problem = problem_of(refused, operator=operator)
    headers = {"retry-after": str(RETRY_SECONDS)} if problem.retries else None
    return HTMLResponse(render(problem), problem.status, headers)


def render(problem: Problem) -> str:
    """Return the document; it contains nothing of the requested page but its address, in the reader's browser."""
    links = [f'<a href="{escape(way.target)}">{escape(way.label)}</a>' for way in problem.ways]
    retry = _RETRY.format(status=problem.status.value, milliseconds=RETRY_SECONDS * 1000) if problem.retries else ""
    return _PAGE.format(
        title=escape(problem.title),
        status=f"{problem.status.value} {problem.status.phrase}",
        happened=escape(problem.happened),
        advice=escape(problem.advice),
        ways="".join(links),
        retry=retry,
    )
