//! Elekta TRF records: decoding, Delivery, MetersetMap, RT Plan.
