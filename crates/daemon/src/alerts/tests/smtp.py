"""A mail server that takes mail from kennel, whose password is hush, and tells of each, one line of JSON.

    smtp.py starttls|tls|plain CERTIFICATE KEY
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        told = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": mail["Subject"],
            "id": mail["Message-ID"],
            "automatic": mail["Auto-Submitted"],
            "text": mail.get_content(),
            "user": session.auth_data.login.decode() if session.auth_data else None,
        }
        print(json.dumps(told), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"kennel", b"hush")
    return AuthResult(success=good, handled=False, auth_data=data if good else None)


async def main(way, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def server():
        if way == "plain":
            return SMTP(Handler(), hostname="mail.example")
        return SMTP(
            Handler(),
            hostname="mail.example",
            tls_context=context if way == "starttls" else None,
            require_starttls=way == "starttls",
            authenticator=authenticate,
            auth_required=True,
            auth_require_tls=way == "starttls",
        )

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, "127.0.0.1", 0, ssl=context if way == "tls" else None)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


asyncio.run(main(*sys.argv[1:4]))
