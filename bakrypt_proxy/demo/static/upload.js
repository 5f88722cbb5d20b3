// A file sent with XMLHttpRequest: fetch does not say how far it has come.

// Returns {status, statusText, headers, body}; rejects if there is no reply. `onProgress` gets the share that is sent.
export function upload(url, headers, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 1);
    request.onload = () =>
      resolve({
        status: request.status,
        statusText: request.statusText,
        headers: new Headers(headerLines(request).map((line) => line.split(/: (.*)/, 2))),
        body: request.responseText,
      });
    request.onerror = request.onabort = () => reject(new TypeError("the server could not be reached"));
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.send(form);
  });
}

const headerLines = (request) => request.getAllResponseHeaders().split("\r\n").filter(Boolean);
