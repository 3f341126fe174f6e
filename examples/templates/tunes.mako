<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="stylesheet" href="${style}">
<header class="top">
  <span class="brand">Four engines</span>
  <nav>
    % for link in menu:
      % if link["is_here"]:
      <strong>${link["title"]}</strong>
      % else:
      <a href="${link["url"]}">${link["title"]}</a>
      % endif
    % endfor
  </nav>
</header>
<main class="wide">
  <section class="card">
    <h1>${title} greets ${visitor}</h1>
    <form><div class="row">
      <input name="visitor" value="${visitor}" aria-label="Your name"> <button>Greet</button>
    </div></form>
    <table>
      <tr><th>Tune</th><th>Composer</th><th class="number">Year</th></tr>
      % for tune in tunes:
        <tr><td>${tune["title"]}</td><td>${tune["composer"]}</td><td class="number">${tune["year"]}</td></tr>
      % endfor
    </table>
  </section>
  <section class="card">
    <h2>The template</h2>
    <pre><code>${source}</code></pre>
  </section>
</main>
</html>
