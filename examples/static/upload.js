// Sends pictures as soon as they are dropped or chosen, and shows how far they are. Without it the form has a button.

const form = document.querySelector("form");
const zone = form.querySelector(".dropzone");
const input = form.querySelector("input");
const bar = form.querySelector("progress");
const message = form.querySelector(".message");

function say(text, kind = "") {
  message.textContent = text;
  message.className = `message ${kind}`;
  message.hidden = false;
}

// A thumbnail that the browser makes of a file, before anybody has sent it anywhere.
function preview(file) {
  const figure = document.createElement("figure");
  const image = new Image();
  const caption = document.createElement("figcaption");
  image.src = URL.createObjectURL(file);
  image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  image.alt = caption.textContent = file.name;
  figure.style.opacity = 0.5;
  figure.append(image, caption);
  return figure;
}

// One request with these files; resolves with its XMLHttpRequest. (fetch cannot tell how much of a body is sent.)
function post(files) {
  const data = new FormData();
  files.forEach((file) => data.append(input.name, file));
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => { bar.value = 100 * event.loaded / event.total; };
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error("The connection broke."));
    request.open("POST", form.action);
    request.send(data);
  });
}

async function send(files) {
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (size > form.dataset.limit) {
    say(`Together they are over ${form.dataset.limit >> 20} MiB: send fewer at a time.`, "error");
    return;
  }
  const previews = files.map(preview);
  document.querySelector(".gallery").prepend(...previews);
  bar.value = 0;
  bar.hidden = false;
  say("Sending …");
  try {
    const request = await post(files);
    if (request.status !== 200) throw new Error(request.responseText.trim().split("\n").pop());
    const page = new DOMParser().parseFromString(request.responseText, "text/html");  // where the answer sent us
    for (const what of [".gallery", "#count"]) document.querySelector(what).replaceWith(page.querySelector(what));
    say(files.length === 1 ? "The picture is here." : `${files.length} pictures are here.`, "success");
  } catch (error) {
    previews.forEach((figure) => figure.remove());
    bar.hidden = true;
    say(error.message, "error");
  }
}

let last = Promise.resolve();  // one after the other, whatever is dropped meanwhile
function enqueue(files) {
  if (files.length) last = last.then(() => send(files));
}

input.required = false;
input.onchange = () => {
  enqueue([...input.files]);
  input.value = "";  // so that the same file can be chosen again
};
for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
zone.ondragover = () => zone.classList.add("over");
zone.ondragleave = () => zone.classList.remove("over");
zone.ondrop = (event) => {
  zone.classList.remove("over");
  enqueue([...event.dataTransfer.files]);
};
