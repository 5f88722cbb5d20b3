"""The sandbox's API for bearer tokens: files, assets and transactions, in bakrypt's shapes."""

import base64
import hashlib
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest, NotFound

_PAGE_SIZE = 100
_TIME_TO_PAY = timedelta(days=1)
_DONE = {
    "mint": ("confirmed", "The assets are on the chain."),
    "refund": ("refund", "The deposit was returned."),
}

BearerCheck = Callable[[], str | Response]


class Ledger:
    """The assets and transactions that users have created. Each user sees only their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._assets: list[tuple[str, dict[str, Any]]] = []
        self._transactions: dict[str, tuple[str, dict[str, Any]]] = {}

    def add(
        self, username: str, items: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Create the assets of one collection and one transaction for all of them.

        :param username: who creates them.
        :param items: the assets, as in the request body.
        :returns: the assets and the transaction.
        """
        transaction = _transaction(len(items))
        assets = [
            {**item, "uuid": str(uuid.uuid4()), "transaction": transaction["uuid"]}
            for item in items
        ]
        with self._lock:
            self._transactions[transaction["uuid"]] = (username, transaction)
            self._assets += [(username, asset) for asset in assets]
        return assets, transaction

    def assets(self, username: str) -> list[dict[str, Any]]:
        """Return a user's assets, oldest first.

        :param username: whose assets.
        """
        return [asset for owner, asset in self._assets if owner == username]

    def transaction(self, username: str, key: str) -> dict[str, Any]:
        """Return a user's transaction.

        :param username: who asks.
        :param key: the transaction's uuid.
        :raises NotFound: if it does not exist or belongs to another user.
        """
        owner, transaction = self._transactions.get(key, (None, {}))
        if owner != username:
            raise NotFound("Not found.")
        return transaction


def create_blueprint(check_bearer: BearerCheck) -> Blueprint:
    """Return a blueprint with the `/v1/` routes and an empty ledger.

    :param check_bearer: returns the name of the user to whom the request's token belongs, or the
        response that refuses the request.
    """
    api = Blueprint("v1", __name__, url_prefix="/v1")
    ledger = Ledger()

    @api.before_request
    def identify() -> Response | None:
        if request.method == "OPTIONS":  # a preflight carries no token
            return None
        found = check_bearer()
        if isinstance(found, Response):
            return found
        g.username = found
        return None

    @api.post("/files/")
    def upload() -> tuple[Response, int]:
        file = request.files.get("file")
        if file is None:
            return jsonify(file=["No file was submitted."]), 400
        return jsonify(_attachment(file)), 201

    _add_asset_routes(api, ledger)
    _add_transaction_routes(api, ledger)
    return api


def _add_asset_routes(api: Blueprint, ledger: Ledger) -> None:
    @api.get("/assets/")
    def list_assets() -> Response:
        assets = ledger.assets(g.username)
        return jsonify(count=len(assets), next=None, previous=None, results=assets[:_PAGE_SIZE])

    @api.post("/assets/")
    def create_assets() -> tuple[Response, int]:
        body = request.get_json()
        items = body if isinstance(body, list) else [body]
        if not items or not all(isinstance(item, dict) and item.get("name") for item in items):
            return jsonify(name=["This field is required."]), 400
        assets, transaction = ledger.add(g.username, items)
        return jsonify(
            assets if isinstance(body, list) else assets[0] | {"transaction": transaction}
        ), 201


def _add_transaction_routes(api: Blueprint, ledger: Ledger) -> None:
    @api.get("/transactions/<key>/")
    def show_transaction(key: str) -> Response:
        return jsonify(ledger.transaction(g.username, key))

    @api.post("/transactions/<key>/<any(mint, refund):action>/")
    def act(key: str, action: str) -> Response:
        transaction = ledger.transaction(g.username, key)
        if transaction["status"] != "waiting":
            raise BadRequest(f"The transaction is {transaction['status']}.")
        status, description = _DONE[action]
        transaction.update(status=status, status_description=description, updated_on=_now())
        return jsonify(transaction)


def _attachment(file: FileStorage) -> dict[str, Any]:
    content = file.read()
    digest = base64.b32encode(hashlib.sha256(content).digest()).decode().rstrip("=").lower()
    return {
        "uuid": str(uuid.uuid4()),
        "file": f"https://files.sandbox.invalid/{digest}",
        "name": file.filename,
        "filename": file.filename,
        "size": len(content),
        "mimetype": file.mimetype,
        "ipfs": f"ipfs://Qm{digest}",
        "gateway": f"https://ipfs.sandbox.invalid/ipfs/Qm{digest}",
        "created_on": _now(),
    }


def _transaction(amount: int) -> dict[str, Any]:
    now = _now()
    return {
        "uuid": str(uuid.uuid4()),
        "status": "waiting",
        "status_description": "Waiting for the deposit.",
        "cost": f"{1.5 + 0.5 * amount:.6f}",
        "blockchain_fee": "0.200000",
        "convenience_fee": "1.000000",
        "surety_bond": "1.500000",
        "has_royalties": False,
        "deposit_address": "addr_test1_sandbox_send_nothing_here",
        "policy_id": uuid.uuid4().hex,
        "amount": amount,
        "type": "mint",
        "created_on": now,
        "updated_on": now,
        "expires_on": (datetime.now(UTC) + _TIME_TO_PAY).isoformat(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
