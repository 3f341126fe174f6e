"""Pictures: drop them on the page, watch the bar, see them in the gallery.

    python upload.py                     (http://127.0.0.1:6767)
    UPLOADS=pictures brubeck_lite upload:app --bind 0.0.0.0:8000
    UPLOAD_STORE=tmp brubeck_lite upload:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998

UPLOADS is the folder that keeps the pictures; without it they go with the program. UPLOAD_STORE is where Mongrel2 puts
large bodies: the folder of its `upload.temp_store`, as this program sees it.
"""

import os
import re
import secrets
import tempfile
from html import escape
from pathlib import Path

from brubeck_lite import Brubeck, Request, Response, UploadedFile, abort, csrf, redirect

app = Brubeck(upload_store=os.environ.get("UPLOAD_STORE"))
app.wrap(csrf())  # other sites' pages cannot send pictures
app.static("/static", Path(__file__).parent / "static")

temporary = tempfile.TemporaryDirectory(prefix="pictures-")
FOLDER = Path(os.environ.get("UPLOADS") or temporary.name)
FOLDER.mkdir(parents=True, exist_ok=True)
app.static("/pictures", FOLDER)

LIMIT = 20 << 20  # bytes, of all pictures that come together
ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
BEGINNINGS = {
    ".png": rb"\x89PNG\r\n\x1a\n", ".jpg": rb"\xff\xd8\xff", ".gif": rb"GIF8[79]a", ".webp": rb"(?s)RIFF....WEBP",
}  # fmt: skip

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pictures</title>
<link rel="stylesheet" href="{style}">
<script src="{script}" defer></script>
<header class="top"><a class="brand" href="{home}">Pictures</a><span class="muted" id="count">{count}</span></header>
<main class="wide">
  <form class="card" method="post" action="{action}" enctype="multipart/form-data" data-limit="{limit}">
    <label class="dropzone" style="margin: 0">
      <strong>Drop pictures here, or choose them</strong>
      <span class="muted">PNG, JPEG, GIF or WebP, together at most {mebibytes} MiB</span>
      <input type="file" name="pictures" accept="{kinds}" multiple required>
    </label>
    <noscript><button>Send</button></noscript>
    <progress max="100" value="0" hidden></progress>
    <p class="message" role="status" hidden></p>
  </form>
  <section class="card"><div class="gallery">{gallery}</div></section>
</main>
</html>
"""
FIGURE = '<figure><a href="{url}"><img src="{url}" alt="" loading="lazy"></a><figcaption>{size}</figcaption></figure>'
NOTHING = '<span class="muted">No pictures yet.</span>'


def figures(request: Request) -> list[str]:
    """The pictures as HTML, the newest first."""
    files = {file: file.stat() for file in FOLDER.iterdir() if file.suffix in BEGINNINGS}
    newest = sorted(files, key=lambda file: files[file].st_mtime_ns, reverse=True)
    urls = {file: escape(request.url_for("/pictures", name=file.name)) for file in newest}
    return [FIGURE.format(url=urls[file], size=f"{files[file].st_size / 1024:,.0f} KiB") for file in newest]


@app.route("/")
def index(request: Request) -> str:
    pictures = figures(request)
    return PAGE.format(
        style=request.url_for("static", name="style.css"), script=request.url_for("static", name="upload.js"),
        home=request.url_for("index"), action=request.url_for("upload"), kinds=",".join(ENDINGS), limit=LIMIT,
        mebibytes=LIMIT >> 20, count=f"{len(pictures)} here", gallery="\n".join(pictures) or NOTHING,
    )  # fmt: skip


def ending(picture: UploadedFile) -> str:
    """What the name of this picture's file ends in; HTTPError 415 unless its type and its content say the same."""
    suffix = ENDINGS.get(picture.content_type.lower())
    if suffix is None or not re.match(BEGINNINGS[suffix], picture.read(16)):
        abort(415, f"this is no picture in PNG, JPEG, GIF or WebP: {picture.filename}")
    return suffix


@app.post("/pictures", max_body=LIMIT)
def upload(request: Request) -> Response:
    pictures = request.files.getall("pictures")
    if not pictures:
        abort(400, "no picture was chosen")
    names = [secrets.token_hex(16) + ending(picture) for picture in pictures]  # nothing of what the client says
    for picture, name in zip(pictures, names, strict=True):
        picture.save(FOLDER / name)
    return redirect(request.url_for("index"))


if __name__ == "__main__":
    app.run()
