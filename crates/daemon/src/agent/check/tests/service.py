"""A service that is looked at: service.py [CERTIFICATE KEY]. Tells its port, then answers until it is ended."""

import http.server
import ssl
import sys

ANSWERS = {"/well": (200, "all is well"), "/busy": (503, "no"), "/private": (401, "who?"), "/moved": (302, "")}


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, text = ANSWERS.get(self.path, (404, "nothing"))
        body = (text + " at " + self.headers["Host"]).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/busy")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
