/** The API's description in Swagger UI, read and tried out with the key that the page uses too. */

const KEY_STORE = "maskserve-key"; // as in ../api.js

const form = document.getElementById("key-form");
const input = document.getElementById("key");
const words = document.getElementById("words");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY_STORE, input.value.trim());
  show();
});
show();

async function show() {
  const key = sessionStorage.getItem(KEY_STORE);
  const headers = key ? { "X-API-Key": key } : {};
  let response;
  try {
    response = await fetch(new URL("openapi.json", document.baseURI), { headers });
  } catch {
    words.textContent = "The server cannot be reached.";
    return;
  }
  form.hidden = response.status !== 401;
  if (!response.ok) {
    const wrongKey = response.status === 401 && key;
    words.textContent = wrongKey ? "The key is not one of this server's." : form.hidden ? `Error ${response.status}` : "";
    input.focus();
    return;
  }
  words.textContent = "";
  const spec = await response.json();
  // Whatever the proxy in front does to paths, what is tried out goes where this page came from.
  spec.servers = [{ url: new URL(".", document.baseURI).href }];
  window.SwaggerUIBundle({
    spec,
    domNode: document.getElementById("swagger-ui"),
    deepLinking: true,
    validatorUrl: null,
    requestInterceptor: (request) => {
      const own = Object.keys(request.headers).some((name) => /^(authorization|x-api-key)$/i.test(name));
      if (key && !own) request.headers["X-API-Key"] = key;
      return request;
    },
  });
}
