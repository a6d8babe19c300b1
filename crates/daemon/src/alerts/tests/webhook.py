"""A receiver of webhooks, as somebody may write one: checks the signature, and tells what came, one line of JSON each.

    webhook.py SECRET [CERTIFICATE KEY]

It listens at $ADDRESS (default: 127.0.0.1), and tells its port first.
"""

import hashlib
import hmac
import http.server
import json
import os
import ssl
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "https://elsewhere.example/")
            self.end_headers()
            return
        if self.path == "/broken":
            self.send_error(503, "out of order")
            return
        expected = "sha256=" + hmac.new(sys.argv[1].encode(), body, hashlib.sha256).hexdigest()
        signed = hmac.compare_digest(self.headers.get("Kennel-Signature", ""), expected)
        told = {"signed": signed, "type": self.headers["Content-Type"], "notice": json.loads(body)}
        print(json.dumps(told), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer((os.environ.get("ADDRESS", "127.0.0.1"), 0), Receiver)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
