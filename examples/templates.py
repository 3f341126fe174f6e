"""One page by four engines: Jinja2, Mako, Tornado's templates and Mustache, each of which escapes what it is given.

    python templates.py                 (http://127.0.0.1:6767)
    brubeck_lite templates:app --bind 0.0.0.0:8000

`app.templates` is any callable (name, **values) -> str; one for each engine stands below, to be copied from here. An
engine is imported when its page is asked for: pip install jinja2 mako tornado pystache
"""

import functools
from collections.abc import Callable
from pathlib import Path

from brubeck_lite import Brubeck, Request, abort, jinja2_templates, render

Templates = Callable[..., str]

app = Brubeck()
app.static("/static", Path(__file__).parent / "static")


def mako_templates(folder: Path) -> Templates:
    """Mako escapes nothing unless `default_filters` says so; `| n` behind a value leaves that one as it is."""
    from mako.lookup import TemplateLookup

    lookup = TemplateLookup([str(folder)], default_filters=["h"], strict_undefined=True)
    return lambda name, /, **values: str(lookup.get_template(name).render(**values))


def tornado_templates(folder: Path) -> Templates:
    """Tornado's templates escape unless told otherwise, with `{% raw %}`; they come as UTF-8."""
    from tornado.template import Loader

    loader = Loader(str(folder))
    return lambda name, /, **values: loader.load(name).generate(**values).decode()


def mustache_templates(folder: Path) -> Templates:
    """Mustache, by pystache, escapes what stands in two braces, and not what stands in three."""
    from pystache import Renderer

    renderer = Renderer(search_dirs=str(folder), file_extension=False, missing_tags="strict")
    return lambda name, /, **values: str(renderer.render_name(name, values))


FOLDER = Path(__file__).parent / "templates"
ENGINES: dict[str, tuple[str, str, Callable[[Path], Templates]]] = {  # title, package, what makes its callable
    "jinja2": ("Jinja2", "jinja2", jinja2_templates),
    "mako": ("Mako", "mako", mako_templates),
    "tornado": ("Tornado", "tornado", tornado_templates),
    "mustache": ("Mustache", "pystache", mustache_templates),
}


@functools.cache
def engine(kind: str) -> Templates:
    return ENGINES[kind][2](FOLDER)


def by_ending(name: str, /, **values: object) -> str:
    """Most programs have one engine: app.templates = mako_templates(FOLDER). Here the name's ending says which."""
    return engine(name.rpartition(".")[2])(name, **values)


app.templates = by_ending

TUNES = [
    {"title": "Take Five", "composer": "Paul Desmond", "year": 1959},
    {"title": "Blue Rondo à la Turk", "composer": "Dave Brubeck", "year": 1959},
    {"title": "Unsquare Dance", "composer": "Dave Brubeck", "year": 1961},
    {"title": "It's a Raggy Waltz", "composer": "Dave Brubeck", "year": 1961},
]


@app.route("/", name="index")
@app.route("/<any(jinja2, mako, tornado, mustache):kind>")
def page(request: Request, kind: str = "jinja2") -> str:
    title, package, _ = ENGINES[kind]
    menu = [{"title": ENGINES[other][0], "url": request.url_for("page", kind=other), "is_here": other == kind}
            for other in ENGINES]  # fmt: skip
    visitor = request.get_argument("visitor", "<you>")
    style = request.url_for("static", name="style.css")
    source = (FOLDER / f"tunes.{kind}").read_text(encoding="utf-8")
    try:
        return render(request, f"tunes.{kind}", title=title, menu=menu, visitor=visitor, tunes=TUNES, style=style,
                      source=source)  # fmt: skip
    except ImportError:
        abort(501, f"{title} is not installed: pip install {package}")


if __name__ == "__main__":
    app.run()
