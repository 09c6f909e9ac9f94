//! Mosaiq's tables, empty: the columns that its clients read, with the types that SQL Server has them in.

use rusqlite::Connection;

/// Makes the tables. Types: PyMedPhys 0.41, `_mosaiq/mock/data/types_map.toml`, where it has them.
///
/// # Panics
/// When they cannot be made.
pub fn mosaiq_tables() -> Connection {
    let rows = Connection::open_in_memory().unwrap();
    rows.execute_batch(
        "CREATE TABLE TrackTreatment (TTX_ID int, Pat_ID1 int, FLD_ID int, DHS_ID int, Machine_ID_Staff_ID int,
            Create_DtTm datetime, Edit_DtTm datetime, WasQAMode bit, WasBeamComplete bit, WasBeamOn bit, WasCanceled bit,
            WasRecorded bit);
         CREATE TABLE Ident (IDENT_ID int, Pat_Id1 int, IDA nvarchar(100));
         CREATE TABLE Patient (Pat_ID1 int, Last_Name nvarchar(100), First_Name nvarchar(100));
         CREATE TABLE TxField (FLD_ID int, FLD_SET_ID int, Pat_ID1 int, Field_Label nvarchar(100),
            Field_Name nvarchar(100), Type_Enum int, Meterset decimal(12,6), Version int);
         CREATE TABLE Staff (Staff_ID int, Last_Name nvarchar(100));
         CREATE TABLE TxFieldPoint (FLD_ID int, Point int, [Index] decimal(9,5), MLC_Leaves int,
            A_Leaf_Set varbinary(200),
            B_Leaf_Set varbinary(200), Gantry_Ang decimal(6,3), Coll_Ang decimal(6,3), Coll_Y1 decimal(7,4),
            Coll_Y2 decimal(7,4));",
    )
    .unwrap();
    rows
}
