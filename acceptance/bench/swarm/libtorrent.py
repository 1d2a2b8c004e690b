# One BitTorrent client on libtorrent: SETTINGS TORRENT DIR ADDRESS PEER...
# Prints "ready" once the torrent is checked, connects to its peers after a line on standard input, and prints
# "complete" when it has everything; then it goes on to serve the others.
import sys

import libtorrent as lt

settings, torrent, directory, address = sys.argv[1:5]
peers = sys.argv[5:]
seed = not peers
pack = {
    "listen_interfaces": address + ":6881",
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
}
if settings == "tuned":
    pack |= {
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "out_enc_policy": int(lt.enc_policy.pe_disabled),
        "in_enc_policy": int(lt.enc_policy.pe_disabled),
        "unchoke_slots_limit": 2 if seed else 20,
        "seed_choking_algorithm": 0,  # round robin
        "request_queue_time": 1,
        "whole_pieces_threshold": 1,
        "initial_picker_threshold": 0,
        "predictive_piece_announce": 300,
    }
    if seed:
        pack["unchoke_interval"] = 2
session = lt.session(pack)
info = lt.torrent_info(torrent)
info.clear_trackers() if hasattr(info, "clear_trackers") else None
params = lt.add_torrent_params()
params.ti = info
params.save_path = directory
params.trackers = []
if seed:
    params.flags |= lt.torrent_flags.seed_mode
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
handle = session.add_torrent(params)
handle.replace_trackers([])


def say(word):
    print(word, flush=True)


def wait(kind):
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
                sys.exit(alert.message())
            if isinstance(alert, kind):
                return


if not seed:
    wait(lt.torrent_checked_alert)
say("ready")
sys.stdin.readline()
for peer in peers:
    handle.connect_peer((peer, 6881))
if not seed:
    wait(lt.torrent_finished_alert)
    say("complete")
sys.stdin.readline()  # until the end of the trial
