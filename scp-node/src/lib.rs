//! DICOM node, iCom listener and TRF collector for QATrack+.
