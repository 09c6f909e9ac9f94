//! Compressed frames whose stored pixels come back exactly: RLE Lossless and JPEG Lossless.
//!
//! Input: the fragments of one grey frame, foreign. Output: its samples, little endian, as an uncompressed file would hold
//! them. What cannot be given back exactly (lossy JPEG), or only by a decoder that is not worth its size in a wheel
//! (JPEG-LS, JPEG 2000, JPEG XL), is `None`. Source: PS3.5 Annex G (RLE) and §8.2.1 (JPEG).

use dicom_dictionary_std::uids;
use jpeg_decoder::{CodingProcess, Decoder, PixelFormat};

/// Most that either coding can expand: RLE gives 128 bytes for 2, JPEG at best a 16 bit sample for a bit. A header that
/// claims more is not believed, so that nothing is allocated for it.
const EXPANSION_MAX: usize = 64;
/// Length of an RLE header: the number of segments and 15 offsets. Source: PS3.5 §G.5.
const RLE_HEADER: usize = 64;

/// A frame's size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Bytes of a sample.
    pub(super) width: usize,
    /// Samples are signed and shorter than their bytes: JPEG does not keep the bits above, which hold the sign.
    pub(super) sign_is_lost: bool,
}

impl Shape {
    fn samples(self) -> usize {
        self.rows.saturating_mul(self.columns)
    }
}

/// The samples of a frame; `None` for a transfer syntax that is not decoded here.
///
/// # Errors
/// What is wrong with the fragments, as the end of a sentence about the file.
pub(super) fn decode(syntax: &str, fragments: &[Vec<u8>], shape: Shape) -> Option<Result<Vec<u8>, String>> {
    let decoder = match syntax {
        uids::RLE_LOSSLESS => rle,
        uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 if !shape.sign_is_lost => jpeg,
        _ => return None,
    };
    let coded = fragments.concat();
    let claimed = shape.samples().saturating_mul(shape.width);
    if claimed > coded.len().saturating_mul(EXPANSION_MAX) {
        return Some(Err(format!(
            "holds {} compressed bytes, which cannot be {claimed} bytes of pixels",
            coded.len()
        )));
    }
    Some(decoder(&coded, shape))
}

/// One segment for each byte of a sample, the most significant first.
fn rle(coded: &[u8], shape: Shape) -> Result<Vec<u8>, String> {
    let cut = || "holds an RLE header that is cut or wrong".to_owned();
    let header = coded.get(..RLE_HEADER).ok_or_else(cut)?;
    let words: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word) as usize).collect();
    if words.first() != Some(&shape.width) {
        return Err(format!("does not hold {} RLE segments, one for each byte of a sample", shape.width));
    }
    let mut samples = vec![0; shape.samples() * shape.width];
    for segment in 0..shape.width {
        let begin = *words.get(segment + 1).ok_or_else(cut)?;
        let end =
            if segment + 1 == shape.width { coded.len() } else { *words.get(segment + 2).ok_or_else(cut)? };
        let bytes = unpacked(coded.get(begin..end).ok_or_else(cut)?, shape.samples())
            .ok_or_else(|| format!("holds an RLE segment that is not {} bytes", shape.samples()))?;
        let place = shape.width - 1 - segment;
        for (sample, byte) in samples.chunks_exact_mut(shape.width).zip(bytes) {
            if let Some(to) = sample.get_mut(place) {
                *to = byte;
            }
        }
    }
    Ok(samples)
}

/// Exactly `wanted` bytes from PackBits. Source: PS3.5 §G.3.1.
fn unpacked(mut packed: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let (control, rest) = packed.split_first()?;
        packed = match *control {
            n @ 0..=127 => {
                let (literal, rest) = rest.split_at_checked(usize::from(n) + 1)?;
                bytes.extend_from_slice(literal);
                rest
            }
            128 => rest,
            n => {
                let (byte, rest) = rest.split_first()?;
                bytes.resize(bytes.len() + 257 - usize::from(n), *byte);
                rest
            }
        };
    }
    (bytes.len() == wanted).then_some(bytes)
}

fn jpeg(coded: &[u8], shape: Shape) -> Result<Vec<u8>, String> {
    let wrong = |error: jpeg_decoder::Error| format!("holds damaged JPEG data: {error}");
    let mut decoder = Decoder::new(coded);
    decoder.set_max_decoding_buffer_size(shape.samples() * shape.width);
    decoder.read_info().map_err(wrong)?;
    let info = decoder.info().ok_or_else(|| "holds JPEG data without a frame".to_owned())?;
    let width = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::L16 => 2,
        _ => 0,
    };
    if info.coding_process != CodingProcess::Lossless {
        return Err("holds lossy JPEG data, though its transfer syntax is a lossless one".to_owned());
    }
    if (usize::from(info.height), usize::from(info.width), width) != (shape.rows, shape.columns, shape.width)
    {
        return Err(format!(
            "holds a JPEG frame of {} x {} samples of {width} bytes where its header says {} x {} of {}",
            info.height, info.width, shape.rows, shape.columns, shape.width
        ));
    }
    let decoded = decoder.decode().map_err(wrong)?;
    // Words come in the machine's own order.
    Ok(if width == 1 {
        decoded
    } else {
        decoded.as_chunks::<2>().0.iter().flat_map(|word| u16::from_ne_bytes(*word).to_le_bytes()).collect()
    })
}
