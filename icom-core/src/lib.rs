//! Elekta iCom: frames, items, snapshots, deliveries, journal, archive, listener.
