"""The stream that sessions are held on: what is sent and answered, numbered and sent again, from connection to connection.

Arrows point down: `connection` -> `outcomes` -> `members` -> `outbox` -> `ledger` -> `calls`. No session objects here.
"""
